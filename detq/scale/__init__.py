"""A model on any number of images: work that is cut into shards, done once each, by one process or
by many.
"""
