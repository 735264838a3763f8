"""TensorRT engines built from a bundle on the machine that runs them."""
