"""What is left to read: report.json, report.html, the closing table."""
