"""What runs inside the batch job; it loads on every core of every node, so it imports next to nothing."""
