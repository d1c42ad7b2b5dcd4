;; RUN: rewrite %s -o %t
(module
  (memory 1)
  (@producers (language "Rust" "2024") (processed-by "walrus" "0.28")))
