"""The services: what each scheme speaks, and one package for each wire family."""
