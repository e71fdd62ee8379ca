namespace FramePin.Client;

/// <summary>
/// Lets threads and tasks into a mirror while its range stands still, and keeps them out while it changes.
/// </summary>
/// <remarks>Any thread. Holds its lock for a few instructions; nobody awaits under it.</remarks>
internal sealed class MirrorGate
{
    /// <summary>Guards every field. A monitor, since <see cref="Enter"/> waits on it.</summary>
    private readonly object _lock = new();

    /// <summary>Completed when the last visitor leaves; null when nobody waits for that.</summary>
    private TaskCompletionSource? _left;

    /// <summary>Completed when the range stands still again; null when nobody awaits that.</summary>
    private TaskCompletionSource? _opened;
    private int _users;
    private bool _isChanging = true;
    private string? _failure;

    /// <summary>Goes inside. Blocks the thread while the range changes.</summary>
    /// <exception cref="InvalidOperationException">The mirror has failed, with its reason.</exception>
    public void Enter()
    {
        lock (_lock)
        {
            while (_isChanging && _failure is null) Monitor.Wait(_lock);
            Admit();
        }
    }

    /// <summary>Goes inside, or returns false while the range changes. Does not wait.</summary>
    /// <exception cref="InvalidOperationException">The mirror has failed, with its reason.</exception>
    public bool TryEnter()
    {
        lock (_lock)
        {
            if (_isChanging && _failure is null) return false;
            Admit();
            return true;
        }
    }

    /// <summary>Goes inside. Waits without a thread while the range changes.</summary>
    /// <exception cref="InvalidOperationException">The mirror has failed, with its reason.</exception>
    public async ValueTask EnterAsync(CancellationToken cancellationToken)
    {
        while (!TryEnter()) await OpenedAsync().WaitAsync(cancellationToken).ConfigureAwait(false);
    }

    /// <summary>Leaves.</summary>
    public void Leave()
    {
        lock (_lock)
        {
            if (--_users > 0) return;
            _left?.TrySetResult();
            _left = null;
        }
    }

    /// <summary>Lets nobody in any more. Completes when everybody has left.</summary>
    public Task CloseAsync()
    {
        lock (_lock)
        {
            _isChanging = true;
            if (_users == 0) return Task.CompletedTask;
            _left ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            return _left.Task;
        }
    }

    /// <summary>The range stands still.</summary>
    public void Open()
    {
        lock (_lock)
        {
            _isChanging = false;
            Wake();
        }
    }

    /// <summary>Every later entry throws. The first failure is the one that they tell.</summary>
    public void Fail(string failure)
    {
        lock (_lock)
        {
            _failure ??= failure;
            Wake();
        }
    }

    private void Admit()
    {
        if (_failure is not null) throw new InvalidOperationException(_failure);
        _users++;
    }

    private void Wake()
    {
        Monitor.PulseAll(_lock);
        _opened?.TrySetResult();
        _opened = null;
    }

    private Task OpenedAsync()
    {
        lock (_lock)
        {
            if (!_isChanging || _failure is not null) return Task.CompletedTask;
            _opened ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            return _opened.Task;
        }
    }
}
