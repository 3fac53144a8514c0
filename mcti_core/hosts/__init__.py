"""Hosts: adapters that provide a text encoder, a denoiser, a latent codec and a CLIP space."""
