"""`python -m chatlab verdict`: what a cache and each history strategy would have done with somebody's chats."""
