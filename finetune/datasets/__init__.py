"""Published archive formats and the synthetic world that is written in them."""
