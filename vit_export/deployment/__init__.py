"""What a phone should run: exact rewrites of the parameters and the deployment graph."""
