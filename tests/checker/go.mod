// Judges the histories that the tests record, see ../support/history.rs. Built by ../idp/fetch.
module checker

go 1.24

require github.com/anishathalye/porcupine v1.3.1
