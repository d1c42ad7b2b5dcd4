;; RUN: preflight --pages 65537
(module)
