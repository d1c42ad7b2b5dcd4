;; RUN: rewrite %s -o %t
(module
  (memory 17 100)
  (@custom "signature" (after data) "\01\01"))
