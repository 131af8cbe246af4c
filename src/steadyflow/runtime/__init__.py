"""What runs a flow: workers, the processes that they may live in, and what travels between these."""
