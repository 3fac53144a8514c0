"""Hosts made of diffusers and transformers models."""
