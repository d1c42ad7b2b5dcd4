;; RUN: inspect %s
;; The output of a rewrite, with the record that it leaves.
(module
  (memory (export "memory") 65536 65536)
  (@custom "wasm-prealloc" (after data) "\02\00\01\00\02\0b\06\02\0a\80\80\fc\ff\0f\03\04"))
