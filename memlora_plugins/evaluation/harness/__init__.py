"""What every measurement needs: the models it asks, what they were asked, memories that go away again."""
