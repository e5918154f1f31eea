"""What users set: checks of it, and how its secrets are kept from being shown."""
