"""What a user declares and runs."""
