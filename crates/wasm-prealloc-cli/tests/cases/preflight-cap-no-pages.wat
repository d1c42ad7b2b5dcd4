;; RUN: preflight --policy cap
(module)
