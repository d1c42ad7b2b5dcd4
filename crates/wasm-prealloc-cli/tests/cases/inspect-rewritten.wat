;; RUN: inspect %s
(module
  (memory 65536 65536)
  (@custom "wasm-prealloc" "\01\01\00\11\65"))
