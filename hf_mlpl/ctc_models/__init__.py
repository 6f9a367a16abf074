"""Lets the recipe use CTC models of any architecture of transformers, by one interface."""
