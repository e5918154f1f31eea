"""Images made fit for their target: sniffed here, decoded in worker processes."""
