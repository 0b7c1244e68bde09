"""What a task is: its data, head, metric and pictures."""
