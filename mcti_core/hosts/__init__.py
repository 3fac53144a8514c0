"""Hosts: what lends the core a text encoder, a denoiser, a latent codec and a CLIP space."""
