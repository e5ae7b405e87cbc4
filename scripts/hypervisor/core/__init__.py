"""What everything else stands on: errors, data types, settings, paths, files, text and the process."""
