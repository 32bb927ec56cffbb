"""What is exported: variants, sizes, parameters, preprocessing, labels, the record, and the Keras reference model."""
