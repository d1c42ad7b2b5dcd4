;; RUN: rewrite %s -o %t
(module (memory 1)
  (func i32.cosnt 1))
