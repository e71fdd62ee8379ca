using System.Diagnostics;
using System.Globalization;

namespace FramePin.Replay;

/// <summary>
/// Records a program for <see cref="Replayer"/>: the log of its memory calls by strace, its maps before the first of
/// them and at its exit, and the sizes of the files that it mapped.
/// </summary>
/// <remarks>
/// strace holds the program for a moment at its first brk or mmap, after each execve, and at exit_group; the recorder
/// reads the maps then. Needs strace and the right to trace. Any thread; two recordings need two folders.
/// </remarks>
/// <param name="time">The clock of the looks at the program.</param>
public sealed class Recorder(TimeProvider time)
{
    /// <summary>
    /// The calls that decide what memory calls answer. A name behind '?' may be unknown to an old strace, which then
    /// writes the call's number.
    /// </summary>
    private const string Traced =
        "%memory,execve,clone,?clone3,fork,vfork,exit_group,prctl,personality,arch_prctl,shmget,shmctl,ftruncate,"
        + "truncate,fallocate,fcntl,?dup,?dup2,dup3,memfd_create,?memfd_secret,userfaultfd,set_mempolicy,"
        + "?set_mempolicy_home_node,move_pages,migrate_pages,?process_madvise,pkey_mprotect,?mseal,?map_shadow_stack";
    /// <summary>The files of a recording.</summary>
    private static readonly string[] Files = ["strace.log", "maps.start", "maps.end", "smaps.end", "files"];

    private const string SysBrk = "12 ";
    private const string SysMmap = "9 ";
    private const string SysExitGroup = "231 ";

    /// <summary>An execve that has succeeded: the new program's registers are empty.</summary>
    private const string SysExecveDone = "59 0x0 0x0 0x0 ";
    private const int HoldMilliseconds = 1000;
    private const int HoldAtExecMilliseconds = 100;
    private static readonly TimeSpan Poll = TimeSpan.FromMilliseconds(2);

    /// <summary>
    /// Runs a program and writes its recording. Returns the exit code of the program. The files are written beside the
    /// folder and come into it when they are whole: a recording that stood there stays until then.
    /// </summary>
    /// <param name="command">The program and its arguments.</param>
    /// <param name="folder">Folder of the recording, which is made if it is missing.</param>
    /// <param name="cancellationToken">Gives the waiting up. The program goes on.</param>
    /// <exception cref="IOException">strace cannot be started, or the program did not end by exit_group.</exception>
    public async Task<int> RunAsync(
        IReadOnlyList<string> command, string folder, CancellationToken cancellationToken = default)
    {
        var target = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        if (System.IO.File.Exists(target)) throw new IOException($"{folder} is a file, and a recording is a folder");
        Directory.CreateDirectory(Path.GetDirectoryName(target) ?? target);
        var work = Directory.CreateDirectory(
            string.Create(CultureInfo.InvariantCulture, $"{target}.{Environment.ProcessId}.new")).FullName;
        try
        {
            var exitCode = await RecordAsync(command, work, cancellationToken).ConfigureAwait(false);
            Directory.CreateDirectory(target);
            foreach (var name in Files)
            {
                var made = Path.Combine(work, name);
                if (System.IO.File.Exists(made)) System.IO.File.Move(made, Path.Combine(target, name), overwrite: true);
                else System.IO.File.Delete(Path.Combine(target, name));
            }

            return exitCode;
        }
        finally
        {
            Directory.Delete(work, recursive: true);
        }
    }

    private async Task<int> RecordAsync(
        IReadOnlyList<string> command, string folder, CancellationToken cancellationToken)
    {
        var log = Path.Combine(folder, "strace.log");
        var start = new ProcessStartInfo("strace") { UseShellExecute = false };
        foreach (var argument in (string[])["-f", "-y", "-s", "0", "-o", log, "-e", $"trace={Traced}",
            "-e", $"inject=brk,mmap:delay_enter={HoldMilliseconds}ms:when=1", "-e",
            $"inject=exit_group:delay_enter={HoldMilliseconds}ms",
            "-e", $"inject=execve:delay_exit={HoldAtExecMilliseconds}ms", "--", .. command])
            start.ArgumentList.Add(argument);
        using var strace = Start(start);
        var pid = 0;
        var (hasStart, hasEnd) = (false, false);
        while (!strace.HasExited)
        {
            // strace first tries tracing on children of its own. The program is the child that comes to a call.
            if (!hasStart) pid = ChildOf(strace.Id);
            if (pid != 0 && !hasStart && (IsIn(pid, SysBrk) || IsIn(pid, SysMmap)))
                hasStart = Copy(pid, "maps", Path.Combine(folder, "maps.start"));
            else if (hasStart && Read($"/proc/{pid}/syscall").StartsWith(SysExecveDone, StringComparison.Ordinal))
                Copy(pid, "maps", Path.Combine(folder, "maps.start"));
            if (hasStart && !hasEnd && IsIn(pid, SysExitGroup))
            {
                hasEnd = Copy(pid, "maps", Path.Combine(folder, "maps.end"))
                    && Copy(pid, "smaps", Path.Combine(folder, "smaps.end"));
                if (hasEnd) WriteSizes(folder);
            }

            await Task.Delay(Poll, time, cancellationToken).ConfigureAwait(false);
        }

        await strace.WaitForExitAsync(cancellationToken).ConfigureAwait(false);
        if (!hasStart)
            throw new IOException($"{command[0]}: ended before its first memory call could be seen");
        if (!hasEnd)
            throw new IOException(
                $"{command[0]}: did not end by exit_group (a signal?): its last maps are not known");
        return strace.ExitCode;
    }

    private static Process Start(ProcessStartInfo start)
    {
        try
        {
            return Process.Start(start) ?? throw new IOException("strace did not start");
        }
        catch (System.ComponentModel.Win32Exception exception)
        {
            throw new IOException(
                $"strace cannot be started ({exception.Message}): install the package strace", exception);
        }
    }

    /// <summary>The traced program: strace's child.</summary>
    private static int ChildOf(int strace)
    {
        var children = Read($"/proc/{strace}/task/{strace}/children").Split(' ', StringSplitOptions.RemoveEmptyEntries);
        return children.Length > 0 ? int.Parse(children[0], CultureInfo.InvariantCulture) : 0;
    }

    /// <summary>
    /// A thread of the program waits in a call. The first brk comes after exec, so that strace itself is not taken for
    /// the program.
    /// </summary>
    private static bool IsIn(int pid, string call)
    {
        if (!Directory.Exists($"/proc/{pid}/task")) return false;
        try
        {
            return Directory.EnumerateDirectories($"/proc/{pid}/task")
                .Any(task => Read($"{task}/syscall").StartsWith(call, StringComparison.Ordinal));
        }
        catch (IOException)
        {
            return false;
        }
    }

    private static bool Copy(int pid, string name, string target)
    {
        var text = Read($"/proc/{pid}/{name}");
        if (text.Length == 0) return false;
        System.IO.File.WriteAllText(target, text);
        return true;
    }

    /// <summary>"SIZE PATH" a line, for each file that the program mapped at the end.</summary>
    private static void WriteSizes(string folder)
    {
        var paths = MapsFile.Parse(System.IO.File.ReadLines(Path.Combine(folder, "maps.end"))).Where(
            line => line.IsFile)
            .Select(line => line.Name).Distinct(StringComparer.Ordinal);
        System.IO.File.WriteAllLines(
            Path.Combine(folder, "files"),
            paths.Where(System.IO.File.Exists).Select(path => string.Create(
                CultureInfo.InvariantCulture, $"{new FileInfo(path).Length} {path}")));
    }

    private static string Read(string path)
    {
        try
        {
            return System.IO.File.ReadAllText(path);
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
