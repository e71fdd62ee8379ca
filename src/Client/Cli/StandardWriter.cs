using System.Text;

namespace FramePin.Cli;

/// <summary>
/// Standard output, or standard error, of the command. A write that fails, on a full disk or into a pipe that nobody
/// reads, throws in no thread: it is remembered, and what comes after it is passed over.
/// </summary>
/// <param name="inner">The writer of the runtime.</param>
/// <param name="failed">Called at the first failure, by the thread that wrote.</param>
internal sealed class StandardWriter(TextWriter inner, Action failed) : TextWriter
{
    private Exception? _failure;

    /// <summary>Why a write failed; null while none did.</summary>
    public Exception? Failure => Volatile.Read(ref _failure);

    public override Encoding Encoding => inner.Encoding;

    public override void Write(char value) => Try(value, static (writer, letter) => writer.Write(letter));

    public override void Write(char[] buffer, int index, int count) =>
        Try((buffer, index, count), static (writer, part) => writer.Write(part.buffer, part.index, part.count));

    public override void Write(string? value) => Try(value, static (writer, text) => writer.Write(text));

    public override void WriteLine() => Try(0, static (writer, _) => writer.WriteLine());

    public override void WriteLine(string? value) => Try(value, static (writer, text) => writer.WriteLine(text));

    public override void Flush() => Try(0, static (writer, _) => writer.Flush());

    private void Try<T>(T value, Action<TextWriter, T> write)
    {
        if (Failure is not null) return;
        try
        {
            write(inner, value);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException
            or ObjectDisposedException)
        {
            if (Interlocked.CompareExchange(ref _failure, exception, null) is null) failed();
        }
    }
}
