"""The services: which wire each scheme uses, and one package for each wire family."""
