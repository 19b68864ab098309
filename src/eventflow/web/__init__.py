"""The HTTP door: routes, who may use them, and what they answer."""
