"""The callbacks: glue between Lightning's hooks and the pure functions."""
