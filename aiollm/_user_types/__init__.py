"""Types of users: how they are described, read and written, and where they are found."""
