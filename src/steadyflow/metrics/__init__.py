"""What is known about a running flow: counters and histograms of the data plane, made readable."""
