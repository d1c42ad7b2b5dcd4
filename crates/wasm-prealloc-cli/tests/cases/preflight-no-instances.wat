;; RUN: preflight --instances 0
(module)
