"""The workings of bulk runs; `aiollm.bulk` has what is public of them."""
