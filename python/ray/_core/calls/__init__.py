"""What a remote function or class declares: its options, its signature, the description that travels."""
