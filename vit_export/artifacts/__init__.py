"""What model files say of themselves, whichever tool wrote them: read without a runtime, without their weights."""
