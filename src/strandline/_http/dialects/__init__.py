"""How clients of each kind ask for runs and are answered. None knows another one, nor what lies between."""
