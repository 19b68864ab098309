"""EventFlow: accept events, deliver them at least once, lose none, and be able to show it."""
