"""What an app or a page needs of one exported file, in one zip: the model, what feeds it, and the code that runs it."""
