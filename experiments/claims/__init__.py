"""What the project claims, and the commands that find out whether it is true."""
