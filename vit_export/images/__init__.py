"""Images from files to arrays: read, split in two, decoded once per run; the default photographs."""
