//! Where OUT is: whole or not at all is decided here.
