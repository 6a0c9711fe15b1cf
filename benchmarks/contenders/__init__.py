"""Engines that answer the same requests, each in a process of its own."""
