"""`vit-export inspect`: what a model file is, what is wrong with it, and which accelerators take its operators."""
