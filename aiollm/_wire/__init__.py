"""Pure bytes: framing, lenient JSON, schemas and base64, without IO or provider knowledge."""
