"""Flow control: the rules, what finds that a pipeline gets too much, and how one rule follows the load."""
