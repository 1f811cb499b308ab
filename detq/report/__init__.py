"""What a person looks at: per-layer figures, histograms, boxes drawn on images."""
