"""What stands in an exported folder: native modules, files of other libraries, the model card."""
