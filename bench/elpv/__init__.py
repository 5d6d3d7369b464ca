"""What is said of solar cells: attributes measured from their pixels, what the labels go together with, results."""
