"""Pure bytes: framing, lenient JSON, schemas, base64, with no IO and no provider in it."""
