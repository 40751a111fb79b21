"""The edge's engine: many requests, one model thread, one model call a round."""
