"""What EventFlow tells about itself: metrics and log events, each named once in `names`."""
